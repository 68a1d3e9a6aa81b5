"""What would happen if a plan were carried out."""
