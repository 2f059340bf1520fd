// The invariant mass of an energy and a momentum.
#include <cmath>
#include <cstdlib>
#include <iostream>

int main(int count, char **words) {
    if (count != 3) {
        std::cerr << "usage: masses MOMENTUM ENERGY\n";
        return 2;
    }
    const double momentum = std::atof(words[1]), energy = std::atof(words[2]);
    if (energy < momentum) {
        std::cerr << "masses: the energy is less than the momentum\n";
        return 1;
    }
    std::cout << std::sqrt(energy * energy - momentum * momentum) << '\n';
}
