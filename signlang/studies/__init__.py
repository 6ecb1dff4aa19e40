"""Studies: ranking, leaderboard, plots and report of many runs."""
