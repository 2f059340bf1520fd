/* Elementary functions in double precision, good to about 1e-15, without a mathematical library. */
#define LOOP static inline __attribute__((always_inline))
union bits { double d; unsigned long long u; };
LOOP double d_scale(double x, int n) {
  union bits a, b;
  int half = n >> 1;
  a.u = (unsigned long long)(half + 1023) << 52;
  b.u = (unsigned long long)(n - half + 1023) << 52;
  return x * a.d * b.d;
}
LOOP double d_series(double r) { /* exp(r) - 1 for small r */
  double p = 1.0 / 1307674368000.0;
  p = p * r + 1.0 / 87178291200.0;
  p = p * r + 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  return r + r * r * p;
}
LOOP double d_exp(double x) {
  if (x != x) return x;
  if (x > 709.79) return __builtin_inf();
  if (x < -746.0) return 0.0;
  int n = (int)(x * 0x1.71547652b82fep+0 + (x < 0 ? -0.5 : 0.5));
  double k = (double)n, r = (x - k * 0x1.62e42fee00000p-1) - k * 0x1.a39ef35793c76p-33;
  return d_scale(1.0 + d_series(r), n);
}
LOOP double d_expm1(double x) { return x > -0.4 && x < 0.4 ? d_series(x) : d_exp(x) - 1.0; }
LOOP double d_log(double x) {
  if (!(x > 0.0)) return x == 0.0 ? -__builtin_inf() : __builtin_nan("");
  if (x > 0x1.fffffffffffffp+1023) return x;
  int n = -1023;
  if (x < 0x1p-1022) { x *= 0x1p54; n -= 54; }
  union bits b;
  b.d = x;
  n += (int)(b.u >> 52);
  b.u = (b.u & 0xfffffffffffffull) | 0x3ff0000000000000ull;
  if (b.d > 0x1.6a09e667f3bcdp+0) { b.d *= 0.5; n++; }
  double f = b.d - 1.0, s = f / (2.0 + f), z = s * s;
  double p = 2.0 / 21.0;
  p = p * z + 2.0 / 19.0;
  p = p * z + 2.0 / 17.0;
  p = p * z + 2.0 / 15.0;
  p = p * z + 2.0 / 13.0;
  p = p * z + 2.0 / 11.0;
  p = p * z + 2.0 / 9.0;
  p = p * z + 2.0 / 7.0;
  p = p * z + 2.0 / 5.0;
  p = p * z + 2.0 / 3.0;
  double k = (double)n;
  return k * 0x1.62e42fee00000p-1 + (2.0 * s + (s * z * p + k * 0x1.a39ef35793c76p-33));
}
LOOP double d_log1p(double x) {
  double u = 1.0 + x;
  if (u == 1.0 || !(x < 0x1p900)) return x;
  return x == -1.0 ? -__builtin_inf() : d_log(u) * (x / (u - 1.0));
}
LOOP double d_tanh(double x) {
  double a = x < 0 ? -x : x, e;
  if (a > 22.0) return x < 0 ? -1.0 : 1.0;
  e = d_expm1(2.0 * a);
  e = e / (e + 2.0);
  return x < 0 ? -e : e;
}
LOOP double d_power(double x, double y) { /* as C's pow where x is not negative, or y is whole */
  if (y == 0.0 || x == 1.0) return 1.0;
  if (x != x) return x;
  double a = x < 0 ? -x : x;
  if (x < 0) {
    if (y < -0x1p52 || y > 0x1p52 || (double)(long long)y != y) return a > 0x1.fffffffffffffp+1023 ? (y < 0 ? 0.0 : a) : __builtin_nan("");
    double r = y < 0 ? (a > 0x1.fffffffffffffp+1023 ? 0.0 : d_exp(y * d_log(a))) : d_exp(y * d_log(a));
    return (long long)y & 1 ? -r : r;
  }
  return d_exp(y * d_log(a));
}
LOOP double d_cbrt(double x) {
  if (!(x < 0 || x > 0)) return x;
  double a = x < 0 ? -x : x;
  if (a > 0x1.fffffffffffffp+1023) return x;
  double r = d_exp(d_log(a) / 3.0);
  r = r - (r * r * r - a) / (3.0 * r * r);
  return x < 0 ? -r : r;
}
/* the normal distribution's quantile: Wichura, Algorithm AS 241, 1988, as far as clipped probabilities need it */
LOOP double d_ndtri(double u) {
  double q = u - 0.5, r;
  if (q >= -0.425 && q <= 0.425) {
    r = 0.180625 - q * q;
    return q * (((((((2509.0809287301226727 * r + 33430.575583588128105) * r + 67265.770927008700853) * r + 45921.953931549871457) * r +
                   13731.693765509461125) * r + 1971.5909503065514427) * r + 133.14166789178437745) * r + 3.387132872796366608) /
           (((((((5226.495278852854561 * r + 28729.085735721942674) * r + 39307.89580009271061) * r + 21213.794301586595867) * r +
               5394.1960214247511077) * r + 687.1870074920579083) * r + 42.313330701600911252) * r + 1.0);
  }
  r = q < 0 ? u : 1.0 - u;
  r = __builtin_sqrt(-d_log(r)) - 1.6;
  r = (((((((7.7454501427834140764e-4 * r + 0.0227238449892691845833) * r + 0.24178072517745061177) * r + 1.27045825245236838258) * r +
           3.64784832476320460504) * r + 5.7694972214606914055) * r + 4.6303378461565452959) * r + 1.42343711074968357734) /
      (((((((1.05075007164441684324e-9 * r + 5.475938084995344946e-4) * r + 0.0151986665636164571966) * r + 0.14810397642748007459) * r +
          0.68976733498510000455) * r + 1.6763848301838038494) * r + 2.05319162663775882187) * r + 1.0);
  return q < 0 ? -r : r;
}
LOOP double d_ndtr(double x) {
  double z = (x < 0 ? -x : x) * 0x1.6a09e667f3bcdp-1, t, p, e;
  if (x != x) return x;
  if (z > 27.0) return x < 0 ? 0.0 : 1.0;
  t = (z - 3.75) / (z + 3.75);
  p = -0x1.69712389fdb4fp-29;
  p = p * t + -0x1.106804e5306eep-29;
  p = p * t + 0x1.12ebbe20d6cc9p-25;
  p = p * t + 0x1.4538b902b7242p-26;
  p = p * t + -0x1.0aeee1a4cb6d8p-22;
  p = p * t + -0x1.b770d13ab9629p-25;
  p = p * t + 0x1.d39b60c06c1c1p-20;
  p = p * t + -0x1.06c326f6326adp-20;
  p = p * t + -0x1.7fcb93b06e717p-17;
  p = p * t + 0x1.77988606a3cbbp-16;
  p = p * t + 0x1.b13df08561e08p-15;
  p = p * t + -0x1.303ff13cbfc01p-12;
  p = p * t + 0x1.33fb5cde000acp-12;
  p = p * t + 0x1.cc3a130045ea2p-10;
  p = p * t + -0x1.3f603c84db11fp-7;
  p = p * t + 0x1.d0b00372cdcd1p-6;
  p = p * t + -0x1.e0d0fa6bcb552p-5;
  p = p * t + 0x1.7a14188ad0e18p-4;
  p = p * t + -0x1.bda9309a3914dp-4;
  p = p * t + 0x1.510169d0946b5p-4;
  p = p * t + 0x1.d5f2948166cc0p-9;
  p = p * t + -0x1.1f367683f8974p-3;
  p = p * t + 0x1.3ccda0b5d5dc1p+0;
  e = 0.5 * (d_exp(-z * z) * p / (1.0 + 2.0 * z));
  return x < 0 ? e : 1.0 - e;
}
LOOP double one_scale(double x, double center, double factor, double divisor, double offset, double low, double high) {
  double v = (x - center) * factor / divisor + offset;
  v = v < low ? low : v;
  return v > high ? high : v;
}
LOOP double yeo_johnson_right(double x, double power) { return power == 0 ? d_log1p(x) : d_expm1(power * d_log1p(x)) / power; }
LOOP double yeo_johnson_left(double x, double power) { return power == 0 ? d_expm1(x) : d_expm1(d_log1p(power * x) / power); }
LOOP double one_yeo_johnson(double x, double power) {
  return x != x ? x : x >= 0 ? yeo_johnson_right(x, power) : -yeo_johnson_right(-x, 2.0 - power);
}
LOOP double one_yeo_johnson_inverse(double x, double power) {
  return x != x ? x : x >= 0 ? yeo_johnson_left(x, power) : -yeo_johnson_left(-x, 2.0 - power);
}
LOOP double one_box_cox(double x, double power) {
  return !(x > 0) ? __builtin_nan("") : power == 0 ? d_log(x) : d_expm1(power * d_log(x)) / power;
}
LOOP double one_box_cox_inverse(double x, double power) { return power == 0 ? d_exp(x) : d_exp(d_log1p(power * x) / power); }

/* a float as an unsigned number in the same order; both zeros are one, NaN is 0 */
LOOP unsigned t_ordered(float x) {
  union { float f; unsigned u; } b;
  b.f = x + 0.0f;
  return x != x ? 0 : b.u >> 31 ? ~b.u : b.u | 0x80000000u;
}
