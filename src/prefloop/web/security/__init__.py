"""Who may ask, what a request may be, and how long it may take."""
