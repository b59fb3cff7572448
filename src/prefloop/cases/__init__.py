"""The casebook: failures that one can run, each planted from outside, diagnosed, and mended by what was printed."""
