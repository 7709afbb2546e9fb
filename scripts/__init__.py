"""What a person launches from the checkout; not part of the wheel."""
