"""What is measured of features and units, a folder per family of measures."""
