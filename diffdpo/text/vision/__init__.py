"""Pictures in the prompts of image–text models: what a row holds, a processor makes, and a network
reads."""
