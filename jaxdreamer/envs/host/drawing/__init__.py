"""Drawing MuJoCo models on the host: the OpenGL context and the renderer."""
