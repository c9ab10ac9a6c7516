"""The Hydra configs that ship with frostline, packaged as `frostline.conf`."""
