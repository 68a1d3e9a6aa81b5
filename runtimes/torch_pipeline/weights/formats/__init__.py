"""Weight formats as the runtime stores, decodes and multiplies them: a class each."""
