"""The tabs of the Space, and the page that holds them."""
