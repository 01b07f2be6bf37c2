"""What a stranger sees of a comparison: films, contact sheets, charts, a page and the numbers behind them."""
