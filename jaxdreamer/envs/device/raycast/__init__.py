"""A ray-caster in JAX: pictures of a model's geoms on any device."""
