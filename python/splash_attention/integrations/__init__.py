"""splash inside other libraries. Each module here needs its library; none is imported by splash_attention itself."""
