"""Published methods: a file for each, and how a request and a method come to what a stage runs with."""
