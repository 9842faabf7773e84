"""DreamerAgent and Dreamer: acting, collecting, learning and logging."""
