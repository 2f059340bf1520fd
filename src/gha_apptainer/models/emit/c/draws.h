/* Standard normal numbers from a seed, a row number and a column: Philox4x32-10, one bit of sign, 23 of probability. */
NOINL void F(draw)(float *out, int columns, unsigned long long seed, unsigned long long row) {
  for (int at = 0; at < columns; at += 4 * VL) {
    float signs[4 * VL] ALIGNED, small[4 * VL] ALIGNED;
    int words[4 * VL] ALIGNED;
    for (int b = 0; b < VL; b++) {
      unsigned c0 = (unsigned)(at / 4 + b), c1 = 0, c2 = (unsigned)row, c3 = (unsigned)(row >> 32), k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
      for (int round = 0; round < 10; round++) {
        unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
      }
      words[4 * b] = (int)c0; words[4 * b + 1] = (int)c1; words[4 * b + 2] = (int)c2; words[4 * b + 3] = (int)c3;
    }
    for (int i = 0; i < 4 * VL; i++) {
      small[i] = ((float)((unsigned)words[i] >> 9) + 0.5f) * 0x1p-24f;
      signs[i] = words[i] & 1 ? -1.0f : 1.0f;
    }
    for (int i = 0; i < 4; i++) {
      vf p = *(vf *)(small + i * VL);
      vf t = v_sqrt(v_of(-2.0f) * v_log(p)) - v_of(0x1.2d6abep+0f);
      vf a = v_of(-0x1.2fcd3ap-22f), b = v_of(0x1.5ac7cap-6f);
      a = a * t + v_of(0x1.5b1322p-6f); b = b * t + v_of(0x1.2ccc0cp-2f);
      a = a * t + v_of(0x1.456aaap-2f); b = b * t + v_of(0x1.32abb8p+0f);
      a = a * t + v_of(0x1.73a04cp+0f); b = b * t + v_of(0x1.e0ed48p+0f);
      a = a * t + v_of(0x1.43dba0p+1f); b = b * t + v_of(1.0f);
      a = a * t + v_of(0x1.79c528p+0f);
      /* t is not below zero but by rounding */
      *(vf *)(small + i * VL) = *(vf *)(signs + i * VL) * (t * a / b);
    }
    for (int i = 0; i < 4 * VL && at + i < columns; i++) out[at + i] = small[i];
  }
}
