"""Published methods: each file names the choices of one paper and cites them."""
