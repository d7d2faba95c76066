"""Views, named as the papers name them: operations on a whole batch at once, on its device."""
