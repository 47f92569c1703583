"""Page frame, style, charts and number formats that the HTML reports share."""
