"""The report page: records in, HTML out. Pure; no SQL, no torch. matplotlib is imported where a chart is drawn."""
