"""Holds the built-in scenario: a support desk bound by a policy, its answers, and their true quality."""
