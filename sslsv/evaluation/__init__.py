"""From trial lists and an encoder to scores, metrics and intervals; encoders in use and exported."""
