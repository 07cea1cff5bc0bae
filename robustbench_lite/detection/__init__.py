"""Out-of-distribution detection, clean and under attack."""
