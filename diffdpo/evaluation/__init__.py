"""What an evaluation of images does and finds: pictures, win rates, tables, the page."""
