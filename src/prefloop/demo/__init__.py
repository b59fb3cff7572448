"""The built-in scenario: a support desk bound by a policy, its answers, its true quality."""
