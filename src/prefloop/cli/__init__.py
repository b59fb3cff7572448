"""The command line: thin verbs over `prefloop.stages`. Each verb's module is imported when the verb is used."""
