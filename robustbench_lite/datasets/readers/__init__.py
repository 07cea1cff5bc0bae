"""Readers of files: archives, downloads, Parquet, images, and the cache of decoded pixels."""
