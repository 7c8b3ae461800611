"""How much units tell about phones and speakers: PNMI, purities, bit rates, durations."""
