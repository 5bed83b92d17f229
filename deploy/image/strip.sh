# Takes from a folder of installed packages what is there for their tests and for building against them.
set -eu
cd "$1"
# torch looks for its shared memory manager when it is imported; what lies beside it are tests and protoc.
find torch/bin -mindepth 1 -maxdepth 1 ! -name torch_shm_manager -exec rm -r {} +
rm -rf bin torch/test torch/share
rm -f torch/lib/libaoti_custom_ops.so torch/lib/libbackend_with_compiler.so torch/lib/libjitbackend_test.so \
    torch/lib/libtorchbind_test.so
# triton compiles for a GPU with its own headers.
find . -path ./triton -prune -o -type d \( -name include -o -name tests \) -prune -exec rm -rf {} +
find . -path ./triton -prune -o -type f \( -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.cuh' -o -name '*.pxd' \
    -o -name '*.pyi' -o -name '*.pyc' \) -exec rm -f {} +
