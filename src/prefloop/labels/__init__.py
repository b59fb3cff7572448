"""What people say: rankings checked, merged, compared, simulated, held against scores. Pure; no SQL, no torch."""
