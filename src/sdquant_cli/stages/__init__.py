"""The verbs: each stage reads artifacts, orders calls, and publishes one artifact."""
