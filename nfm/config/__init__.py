"""YAML configuration → frozen, validated settings; every key is documented where it is declared."""
