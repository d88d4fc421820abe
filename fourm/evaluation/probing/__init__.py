"""What can be read off the frozen encoder: linear and attentive probes, neighbours, and rivals."""
