/* Quantiles; this text is used once for numbers that are float and once for those that are double, which is NUMBER. Element j is x[j], its
   table the column `first + j * step`, of `levels` numbers each. `key` are the quantiles as NUMBER, rounded up: comparing with them decides
   as comparing with the quantiles does. `tied` says where a run of equal quantiles begins, or is null where no two are equal. Eight searches
   run side by side. */
NOINL void QUANTILE(double *y, const NUMBER *x, int count, int first, int step, const NUMBER *key, const double *table, const double *level,
                    const unsigned short *tied, int levels, int normal) {
  for (int at = 0; at < count; at += 8) {
    const NUMBER *start[8];
    NUMBER given[8];
    for (int j = 0; j < 8; j++) {
      int e = at + j < count ? at + j : count - 1;
      given[j] = x[e];
      start[j] = key + (long)(first + e * step) * levels;
    }
    int many = levels;
    while (many > 1) {
      int half = many >> 1;
      for (int j = 0; j < 8; j++) start[j] = start[j][half] <= given[j] ? start[j] + half : start[j];
      many -= half;
    }
    for (int j = 0; j < 8 && at + j < count; j++) {
      long column = (long)(first + (at + j) * step) * levels;
      const double *q = table + column;
      double v = given[j], u;
      int i = (int)(start[j] - (key + column));
      if (v != v) { y[at + j] = v; continue; }
      if (v < q[0]) u = level[0];
      else if (v > q[levels - 1]) u = level[levels - 1];
      else if (v == q[i]) u = tied ? 0.5 * (level[i] + level[tied[column + i]]) : level[i];
      else u = level[i] + (v - q[i]) * ((level[i + 1] - level[i]) / (q[i + 1] - q[i]));
      if (normal ? v + 1e-7 > q[levels - 1] : v == q[levels - 1]) u = 1.0;
      if (normal ? v - 1e-7 < q[0] : v == q[0]) u = 0.0;
      if (normal) u = u < 9.99999997779554e-08 ? -5.199337582605575 : u > 1.0 - 9.99999997779554e-08 ? 5.19933758270342 : d_ndtri(u);
      y[at + j] = u;
    }
  }
}
NOINL void QUANTILE_INVERSE(double *y, const NUMBER *x, int count, int first, int step, const double *table, const double *level, int levels,
                            int normal) {
  for (int j = 0; j < count; j++) {
    const double *q = table + (long)(first + j * step) * levels;
    double u = normal ? d_ndtr(x[j]) : x[j], v;
    if (u != u) { y[j] = u; continue; }
    if (normal ? u - 1e-7 < 0.0 : u <= 0.0) v = q[0];
    else if (normal ? u + 1e-7 > 1.0 : u >= 1.0) v = q[levels - 1];
    else {
      int i = (int)(u * (levels - 1));
      if (i > levels - 2) i = levels - 2;
      if (level[i] > u) i--;
      if (level[i + 1] <= u) i++;
      v = i >= levels - 1 ? q[levels - 1] : q[i] + (u - level[i]) * ((q[i + 1] - q[i]) / (level[i + 1] - level[i]));
    }
    y[j] = v;
  }
}
#undef NUMBER
#undef QUANTILE
#undef QUANTILE_INVERSE
