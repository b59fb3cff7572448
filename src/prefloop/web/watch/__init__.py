"""Pages that show runs: by `prefloop watch`, and by `prefloop annotate` to owners. They read run folders alone."""
