/* Which set of kernels this processor can run, found once when the library is loaded. Levels are those of the x86-64 psABI. */
static int gha_level;
#if TOP > 0
static void gha_cpuid(unsigned leaf, unsigned sub, unsigned r[4]) {
  __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
static int gha_has(unsigned word, unsigned bits) { return (word & bits) == bits; }
static int gha_detect(void) {
  unsigned r[4], low, high, seven, extended;
  gha_cpuid(0, 0, r);
  if (r[0] < 1) return 1;
  seven = r[0] >= 7;
  gha_cpuid(0x80000000u, 0, r);
  extended = r[0] >= 0x80000001u;
  if (!extended) return 1;
  gha_cpuid(0x80000001u, 0, r);
  unsigned more = r[2];
  gha_cpuid(1, 0, r);
  unsigned c = r[2];
  /* v2: SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT, LAHF */
  if (!gha_has(c, 1u | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23) || !gha_has(more, 1u)) return 1;
  /* v3: FMA, MOVBE, OSXSAVE, AVX, F16C, LZCNT, BMI1, AVX2, BMI2, and an operating system that keeps the wide registers */
  if (!seven || !gha_has(c, 1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29) || !gha_has(more, 1u << 5)) return 2;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  gha_cpuid(7, 0, r);
  if (!gha_has(low, 6) || !gha_has(r[1], 1u << 3 | 1u << 5 | 1u << 8)) return 2;
  /* v4: AVX512F, DQ, CD, BW, VL */
  if (!gha_has(low, 0xe6) || !gha_has(r[1], 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31)) return 3;
  return 4;
}
__attribute__((constructor)) static void gha_start(void) {
  int found = gha_detect();
  gha_level = found > TOP ? TOP : found;
}
#endif
EXPORT int SYMBOL(level)(void) { return gha_level; }
EXPORT int SYMBOL(use_level)(int wanted) {
#if TOP > 0
  if (wanted < 1 || wanted > TOP || wanted > gha_detect()) return 0;
  gha_level = wanted;
  return 1;
#else
  return wanted == 0;
#endif
}
