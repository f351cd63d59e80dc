"""Reading: what a scenario file and a trace say, with an error for every line that is wrong."""
