"""Full-size and tiny pipelines with random weights, in the published configurations."""
