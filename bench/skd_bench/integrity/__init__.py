"""Files whose content is checked before it is used."""
