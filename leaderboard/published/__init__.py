"""Published numbers, one TOML (perhaps a CSV too) a table; `published_numbers` reads them."""
