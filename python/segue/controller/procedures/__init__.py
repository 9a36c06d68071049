"""One file each: what the controller does for a fault, a verb, or by itself."""
