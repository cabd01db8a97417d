# The GPU architectures that attention has kernels for. A name is what rows of instances.json say, and the folder of
# include/splash/{collective,kernel,device,tuning} that holds what only such a GPU runs. A new one is a line in each of
# these lists, its folders, and rows. Rows of the arch `cuda` are compiled for all of them.
set(SPLASH_GPU_ARCHS sm90)
# As SPLASH_CUDA_ARCHS and nvcc write it.
set(SPLASH_CUDA_ARCH_sm90 90a)
set(SPLASH_ELEMENT_sm90_float16 cutlass::half_t)
set(SPLASH_ELEMENT_sm90_bfloat16 cutlass::bfloat16_t)
