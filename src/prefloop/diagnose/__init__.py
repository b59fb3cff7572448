"""What recorded figures say about a run: rules over plain numbers, for every stage, view and page."""
