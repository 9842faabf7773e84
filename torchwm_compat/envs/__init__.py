"""torchwm's environments and wrappers over jaxdreamer's."""
