"""Rankings by people: they are checked, merged, compared, simulated and held against scores, without SQL or torch."""
