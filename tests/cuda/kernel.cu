// As small as a kernel can be: for which cards is what is looked at.
__global__ void nothing() {}
