"""The detector: arrays and artefacts; knows neither HTTP nor Redis."""
