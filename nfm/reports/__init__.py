"""Shared by the HTML reports: page frame, style and number formats."""
