/* Vectors of VL floats. Every operation below is one rounding of IEEE 754, in a fixed order: the bits depend on nothing else. */
typedef float vf __attribute__((vector_size(VL * 4), may_alias));
typedef int vi __attribute__((vector_size(VL * 4), may_alias));
#define INL static inline __attribute__((always_inline))
#define NOINL static __attribute__((noinline, unused))
#define ALIGNED __attribute__((aligned(64)))
#if VL == 4
#define FILL(x) { x, x, x, x }
#elif VL == 8
#define FILL(x) { x, x, x, x, x, x, x, x }
#elif VL == 16
#define FILL(x) { x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x }
#endif
INL vf v_of(float x) { vf r = FILL(x); return r; }
INL vi v_int(int x) { vi r = FILL(x); return r; }
INL vf v_sel(vi m, vf a, vf b) { return (vf)(((vi)a & m) | ((vi)b & ~m)); }
/* a < b ? a : b and a > b ? a : b, which is b where one is NaN: what minps and maxps do */
#if VL == 4 && defined(__SSE__) && defined(__has_builtin)
#if __has_builtin(__builtin_ia32_minps)
#define v_min __builtin_ia32_minps
#define v_max __builtin_ia32_maxps
#endif
#elif VL == 8 && defined(__AVX__) && defined(__has_builtin)
#if __has_builtin(__builtin_ia32_minps256)
#define v_min __builtin_ia32_minps256
#define v_max __builtin_ia32_maxps256
#endif
#endif
#ifndef v_min
INL vf v_min(vf a, vf b) { return v_sel(a < b, a, b); }
INL vf v_max(vf a, vf b) { return v_sel(a > b, a, b); }
#endif
INL vf v_clip(vf x, float low, float high) { return v_min(v_of(high), v_max(v_of(low), x)); }
INL vf v_abs(vf x) { return (vf)((vi)x & v_int(0x7fffffff)); }
INL vf v_pow2(vi n) { return (vf)((n + v_int(127)) << 23); }
INL vf v_sqrt(vf x) { for (int i = 0; i < VL; i++) x[i] = __builtin_sqrtf(x[i]); return x; }
/* the larger and the smaller, NaN where one is */
INL vf v_maximum(vf a, vf b) { return v_sel((a >= b) | (a != a), a, b); }
INL vf v_minimum(vf a, vf b) { return v_sel((a <= b) | (a != a), a, b); }

/* r and n with x = n ln 2 + r; exp(r) = 1 + v_exp_tail(r) */
INL vf v_reduce(vf x, vi *n) {
  const vf magic = v_of(12582912.0f);
  vf k = x * v_of(0x1.715476p+0f) + magic;
  *n = (vi)k - (vi)magic;
  k = k - magic;
  return (x - k * v_of(0x1.63p-1f)) - k * v_of(-0x1.bd0106p-13f);
}
INL vf v_exp_tail(vf r) {
  vf p = v_of(1.9875691500e-4f);
  p = p * r + v_of(1.3981999507e-3f);
  p = p * r + v_of(8.3334519073e-3f);
  p = p * r + v_of(4.1665795894e-2f);
  p = p * r + v_of(1.6666665459e-1f);
  p = p * r + v_of(5.0000001201e-1f);
  return r + r * r * p;
}
INL vf v_exp(vf x) {
  vi n, half;
  x = v_clip(x, -104.0f, 89.0f);
  vf r = v_reduce(x, &n);
  half = n >> 1;
  return (v_of(1.0f) + v_exp_tail(r)) * v_pow2(half) * v_pow2(n - half);
}
/* exp(x) - 1 of x that are not positive */
INL vf v_expm1(vf x) {
  vi n;
  x = v_max(v_of(-60.0f), x);
  vf r = v_reduce(x, &n), two = v_pow2(n);
  return two * v_exp_tail(r) + (two - v_of(1.0f));
}
/* of x that are neither small nor infinite, and of NaN */
INL vf v_log(vf x) {
  vi b = (vi)x - v_int(0x3f3504f3);
  vi e = b >> 23;
  vf m = (vf)((b & v_int(0x7fffff)) + v_int(0x3f3504f3)) - v_of(1.0f);
  vf k = __builtin_convertvector(e, vf), z = m * m;
  vf p = v_of(7.0376836292e-2f);
  p = p * m + v_of(-1.1514610310e-1f);
  p = p * m + v_of(1.1676998740e-1f);
  p = p * m + v_of(-1.2420140846e-1f);
  p = p * m + v_of(1.4249322787e-1f);
  p = p * m + v_of(-1.6668057665e-1f);
  p = p * m + v_of(2.0000714765e-1f);
  p = p * m + v_of(-2.4999993993e-1f);
  p = p * m + v_of(3.3333331174e-1f);
  vf y = m * z * p + k * v_of(-2.12194440e-4f);
  y = y - v_of(0.5f) * z;
  return v_sel(x != x, x, (m + y) + k * v_of(0.693359375f));
}
/* log(1 + x) of x from 0 to 1, and of NaN */
INL vf v_log1p(vf x) {
  vf w = v_of(1.0f) + x;
  return v_log(w) + (x - (w - v_of(1.0f))) / w;
}
INL vf v_tanh(vf x) {
  x = v_clip(x, -9.02f, 9.02f);
  vf z = x * x;
  vf p = v_of(0x1.c9a216p-27f);
  p = p * z + v_of(0x1.5954c8p-16f);
  p = p * z + v_of(0x1.c9f81p-9f);
  p = p * z + v_of(0x1.120438p-3f);
  p = p * z + v_of(1.0f);
  vf q = v_of(0x1.a0b74cp-21f);
  q = q * z + v_of(0x1.58417cp-12f);
  q = q * z + v_of(0x1.a7df02p-6f);
  q = q * z + v_of(0x1.de5766p-2f);
  q = q * z + v_of(1.0f);
  return v_clip(x * p / q, -1.0f, 1.0f);
}
INL vf v_sigmoid(vf x) { return v_of(1.0f) / (v_of(1.0f) + v_exp(-x)); }
INL vf v_softplus(vf x) { return v_max(v_of(0.0f), x) + v_log1p(v_exp(-v_abs(x))); }
/* the normal distribution's probability below x */
INL vf v_phi(vf x) {
  vf z = v_min(v_of(20.0f), v_abs(x)) * v_of(0x1.6a09e6p-1f);
  vf t = (z - v_of(3.75f)) / (z + v_of(3.75f));
  vf p = v_of(-0x1.d601c4p-13f);
  p = p * t + v_of(0x1.9f8f04p-12f);
  p = p * t + v_of(0x1.b75490p-10f);
  p = p * t + v_of(-0x1.42959cp-7f);
  p = p * t + v_of(0x1.d1750ap-6f);
  p = p * t + v_of(-0x1.e06f60p-5f);
  p = p * t + v_of(0x1.7a05e2p-4f);
  p = p * t + v_of(-0x1.bdb408p-4f);
  p = p * t + v_of(0x1.51032ep-4f);
  p = p * t + v_of(0x1.d60f44p-9f);
  p = p * t + v_of(-0x1.1f367ep-3f);
  p = p * t + v_of(0x1.3ccda0p+0f);
  vf e = v_of(0.5f) * (v_exp(-z * z) * p / (v_of(1.0f) + v_of(2.0f) * z));
  return v_sel(x < v_of(0.0f), e, v_of(1.0f) - e);
}
INL vf v_mish(vf x) {
  /* tanh(log(1 + e)) = (e e + 2 e) / (e e + 2 e + 2) */
  vf e = v_exp(v_min(v_of(20.0f), x)), s = e * (e + v_of(2.0f));
  return x * (s / (s + v_of(2.0f)));
}
INL vf v_squareplus(vf x, float b) {
  vf s = v_sqrt(x * x + v_of(b));
  return v_sel(x < v_of(0.0f), v_of(0.5f * b) / (s - x), (x + s) * v_of(0.5f));
}
INL vf v_canonical(vf x) { return v_sel(x != x, (vf)v_int(0x7fc00000), x); }
