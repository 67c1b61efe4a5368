"""The commands of gatewatch, one file each; service/cli.py joins them."""
