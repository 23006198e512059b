"""Between Arrow columns and Python values, without losing any."""
