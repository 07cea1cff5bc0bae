"""One file a data set: its facts, its official files, and how they are read."""
