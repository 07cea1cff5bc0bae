"""The leaderboard as a table in six formats."""
